package benchmarks;

import java.util.List;
import java.util.Map;
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;

/** What a caller is told to do: the load of benchmarks/load.py, as far as this contender is asked for it. */
@JsonIgnoreProperties(ignoreUnknown = true)
record Load(
        @JsonProperty("in_flight") int inFlight,
        @JsonProperty("warm_up_seconds") double warmUpSeconds,
        @JsonProperty("seconds") double seconds,
        @JsonProperty("processes") Map<String, List<Long>> processes) {}
