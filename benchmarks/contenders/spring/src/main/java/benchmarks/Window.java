package benchmarks;

import java.time.Duration;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Counts answers as benchmarks/load.py does: from the first one after the warm-up to the first one after the end.
 * Called by one thread at a time.
 */
final class Window {
    private final Map<String, List<Long>> processes;
    private final int inFlight;
    private final double seconds;
    private final double opensAt;
    private double opened;
    private double closesAt;
    private double lasted;
    private boolean open;
    private volatile boolean closed;
    private double[] latencies = new double[1 << 16];
    private int count;
    private Map<String, Double> cpuBefore;
    private Map<String, Double> cpuSpent;

    Window(Load load) {
        this.processes = load.processes();
        this.inFlight = load.inFlight();
        this.seconds = load.seconds();
        this.opensAt = now() + load.warmUpSeconds();
    }

    static double now() {
        return System.nanoTime() / 1e9;
    }

    boolean isClosed() {
        return closed;
    }

    synchronized void answered(double sentAt) {
        double now = now();
        if (closed) {
            return;
        }
        if (open && now >= closesAt && count >= inFlight) {
            cpuSpent = cpuNow();
            cpuSpent.replaceAll((role, spent) -> spent - cpuBefore.get(role));
            lasted = now - opened;
            closed = true;
        } else if (open) {
            if (count == latencies.length) {
                latencies = Arrays.copyOf(latencies, 2 * count);
            }
            latencies[count++] = now - sentAt;
        } else if (now >= opensAt) {
            open = true;
            opened = now;
            closesAt = now + seconds;
            cpuBefore = cpuNow();
        }
    }

    synchronized Measurement measurement() {
        double[] ascending = Arrays.copyOf(latencies, count);
        Arrays.sort(ascending);
        int requests = count + 1; // the one that closes the window has no latency
        cpuSpent.replaceAll((role, spent) -> spent / requests * 1e6);
        return new Measurement(
                requests, requests / lasted, percentile(ascending, 50) * 1000, percentile(ascending, 99) * 1000, cpuSpent);
    }

    private static double percentile(double[] ascending, double percent) {
        return ascending[(int) Math.ceil(ascending.length * percent / 100) - 1];
    }

    private Map<String, Double> cpuNow() {
        Map<String, Double> spent = new LinkedHashMap<>();
        processes.forEach((role, pids) -> spent.put(role, pids.stream().mapToDouble(Window::cpuSeconds).sum()));
        return spent;
    }

    private static double cpuSeconds(long pid) {
        return ProcessHandle.of(pid)
                .flatMap(process -> process.info().totalCpuDuration())
                .map(Duration::toNanos)
                .orElse(0L) / 1e9;
    }
}
