import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** The files of a directory that opening and closing it has no reason to change, with what is in them. */
record Snapshot(Map<String, String> files) {
    private static final String EPOCHS = "/leader-epoch-checkpoint";

    static Snapshot of(Path dir) throws IOException {
        Map<String, String> files = new TreeMap<>();
        for (Path file : Judge.files(dir)) {
            String name = dir.relativize(file).toString();
            if (isKept(name)) {
                files.put(name, describe(name, Files.readAllBytes(file)));
            }
        }
        return new Snapshot(files);
    }

    /**
     * Kafka writes snapshots of producers anew, and beside the partitions its checkpoints, lock and mark. What it had marked as
     * deleted is deleted.
     */
    private static boolean isKept(String name) {
        boolean isOfPartition = name.contains("/");
        return isOfPartition && !name.endsWith(".snapshot") && !name.endsWith(".deleted");
    }

    private static String describe(String name, byte[] bytes) {
        if (name.endsWith(EPOCHS)) {
            return new String(bytes, StandardCharsets.UTF_8).replaceFirst("\\d+\n\\d+\n", "epochs\n");
        }
        try {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest(bytes);
            return bytes.length + " bytes, " + HexFormat.of().formatHex(hash, 0, 8);
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    int count() {
        return files.size();
    }

    /** What was there and is not the same, and what is there that was not. */
    List<String> changedTo(Snapshot later) {
        List<String> changes = new ArrayList<>();
        files.forEach((name, content) -> {
            String now = later.files.get(name);
            // An epoch that has no record yet goes until there is a leader again.
            boolean hasLost = name.endsWith(EPOCHS) && now != null && content.startsWith(now);
            if (!content.equals(now) && !hasLost) {
                changes.add(name + " had " + content + ", and " + (now == null ? "is gone" : "has " + now));
            }
        });
        later.files.keySet().stream()
            .filter(name -> !files.containsKey(name) && !isFirstOfPartition(name))
            .forEach(name -> changes.add(name + " was not there"));
        return changes;
    }

    /** A partition that has no segment gets one. */
    private boolean isFirstOfPartition(String name) {
        String partition = name.substring(0, name.indexOf('/') + 1);
        return files.keySet().stream().noneMatch(known -> known.startsWith(partition) && known.endsWith(".log"));
    }
}
