import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Pattern;

import org.apache.kafka.tools.DumpLogSegments;

/** DumpLogSegments on every file that it can read. */
final class Dump {
    private static final Pattern DUMPED = Pattern.compile(".*/\\d{20}\\.(log|index|timeindex|txnindex|snapshot)");

    private Dump() {}

    static void all(Path dir, Topics topics, List<String> complaints, Counts counts) throws IOException {
        for (Path partition : partitions(dir)) {
            List<String> files = Judge.files(partition).stream()
                .map(Path::toString)
                .filter(name -> DUMPED.matcher(name).matches())
                .toList();
            if (files.isEmpty()) {
                continue;
            }
            String name = partition.getFileName().toString();
            String topic = name.substring(0, name.lastIndexOf('-'));
            judge(name, files, topics.isSparse(topic), complaints);
            counts.add("files dumped", files.size());
        }
    }

    private static List<Path> partitions(Path dir) throws IOException {
        return Judge.files(dir).stream().map(Path::getParent).distinct().filter(parent -> !parent.equals(dir)).toList();
    }

    private static void judge(String partition, List<String> files, boolean isSparse, List<String> complaints)
            throws IOException {
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        ByteArrayOutputStream complained = new ByteArrayOutputStream();
        PrintStream out = System.out;
        PrintStream err = System.err;
        try {
            System.setOut(new PrintStream(said, false, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(complained, true, StandardCharsets.UTF_8));
            DumpLogSegments.main(new String[] {"--deep-iteration", "--files", String.join(",", files)});
        } catch (RuntimeException e) {
            complaints.add(partition + ": " + e);
        } finally {
            System.out.flush();
            System.setOut(out);
            System.setErr(err);
        }
        said.toString(StandardCharsets.UTF_8).lines()
            .filter(line -> line.contains("isvalid: false") || line.contains("invalid bytes"))
            .forEach(line -> complaints.add(partition + ": " + line));
        complained.toString(StandardCharsets.UTF_8).lines()
            .filter(line -> !isNoFault(line, isSparse))
            .forEach(line -> complaints.add(partition + ": " + line.strip()));
    }

    /**
     * It expects each segment to begin at 0, every offset to be there, and batches that compaction has emptied to have
     * records still. It says so below a line that names the file.
     */
    private static boolean isNoFault(String line, boolean isSparse) {
        return line.startsWith("Non-consecutive offsets in ")
            || line.startsWith("Found timestamp mismatch in ")
            || line.matches("  -1 is followed by \\d+")
            || isSparse && line.matches("  \\d+ is followed by \\d+|  Index timestamp: \\d+, log timestamp: -1");
    }
}
