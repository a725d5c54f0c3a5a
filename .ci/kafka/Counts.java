import java.util.Map;
import java.util.TreeMap;

/** How much was judged. */
final class Counts {
    private final Map<String, Long> done = new TreeMap<>();

    void add(String what, long count) {
        done.merge(what, count, Long::sum);
    }

    /** As {@code done WHAT COUNT}, one a line. */
    void print() {
        done.forEach((what, count) -> System.out.println("done " + what + " " + count));
    }
}
