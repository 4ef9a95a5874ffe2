package benchmarks;

import java.util.Map;
import com.fasterxml.jackson.annotation.JsonProperty;

/** What a caller saw of a load: the measurement of benchmarks/load.py. */
record Measurement(
        @JsonProperty("requests") int requests,
        @JsonProperty("requests_per_second") double requestsPerSecond,
        @JsonProperty("p50_ms") double p50Ms,
        @JsonProperty("p99_ms") double p99Ms,
        @JsonProperty("cpu_us") Map<String, Double> cpuUs) {}
