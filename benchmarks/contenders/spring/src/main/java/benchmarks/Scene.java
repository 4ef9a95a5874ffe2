package benchmarks;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;

/** Where caller and callee meet: the scene of benchmarks/scene.py. Public, as Spring's expressions want it. */
@JsonIgnoreProperties(ignoreUnknown = true)
public record Scene(
        @JsonProperty("bootstrap_servers") String bootstrapServers,
        @JsonProperty("name") String name,
        @JsonProperty("partitions") int partitions) {
    public String requests() {
        return "spring-" + name + ".requests";
    }

    public String replies() {
        return "spring-" + name + ".replies";
    }
}
