import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Has Kafka's own classes judge log directories.
 *
 * <pre>
 * Judge VERB DIR [VERB DIR]...
 *
 * dump     what DumpLogSegments says of each file
 * load     open as after an orderly shutdown, read all records, close
 * recover  open as after a kill, read all records, close
 * append   open as it was left, append to each partition as its leader does, read all records, close
 * </pre>
 *
 * It fails if a tool complains, a warning is logged, or opening changes a file that it has no need to change. What was read
 * goes to {@code DIR.jsonl}, one record a line. The settings of topics are those of the directory's {@code catalog}.
 */
public final class Judge {
    private int complaints;

    public static void main(String[] args) throws Exception {
        if (args.length == 0 || args.length % 2 != 0) {
            System.err.println("usage: Judge VERB DIR [VERB DIR]...");
            System.exit(2);
        }
        Judge judge = new Judge();
        Counts counts = new Counts();
        for (int at = 0; at < args.length; at += 2) {
            judge.judge(args[at], Path.of(args[at + 1]).toAbsolutePath(), counts);
        }
        counts.print();
        // Kafka's threads are none of ours to wait for.
        System.exit(judge.complaints == 0 ? 0 : 1);
    }

    private void judge(String verb, Path dir, Counts counts) {
        List<String> found = new ArrayList<>();
        try (Warnings ignored = new Warnings(found)) {
            Topics topics = Topics.of(dir);
            switch (verb) {
                case "dump" -> Dump.all(dir, topics, found, counts);
                case "load" -> Opened.reading(dir, topics, true, found, counts);
                case "recover" -> Opened.reading(dir, topics, false, found, counts);
                case "append" -> Opened.appending(dir, topics, counts);
                default -> throw new IllegalArgumentException("there is no verb " + verb);
            }
        } catch (Exception | AssertionError e) {
            found.add(e.toString());
            e.printStackTrace();
        }
        found.forEach(complaint -> System.out.println("COMPLAINT: " + verb + " " + dir + ": " + complaint));
        complaints += found.size();
    }

    /** All regular files below a directory, in order. */
    static List<Path> files(Path dir) throws IOException {
        try (var found = Files.walk(dir)) {
            return found.filter(Files::isRegularFile).sorted().toList();
        }
    }
}
