import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Properties;
import java.util.Set;

import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.storage.internals.log.LogConfig;

/**
 * The settings of topics, as a catalog has them: a line {@code topic ID STATE PARTITIONS NAME}, then {@code set KEY VALUE},
 * and {@code sparse} for one that has gaps.
 */
record Topics(Map<String, Properties> settings, Set<String> sparse) {
    /** A topic below this size is for tests, says Kafka, and has a key of its own for it. */
    private static final int LEAST_SEGMENT_BYTES = 1 << 20;

    /** Those of a directory; none if it has no catalog. */
    static Topics of(Path dir) throws IOException {
        Map<String, Properties> settings = new HashMap<>();
        Set<String> sparse = new HashSet<>();
        Path catalog = dir.resolve("catalog");
        if (Files.exists(catalog)) {
            String topic = "";
            for (String line : Files.readAllLines(catalog)) {
                String[] words = line.split(" ", 5);
                switch (words[0]) {
                    case "topic" -> settings.put(topic = words[4], new Properties());
                    case "set" -> set(settings.get(topic), words[1], words.length > 2 ? line.split(" ", 3)[2] : "");
                    case "sparse" -> sparse.add(topic);
                    default -> { }
                }
            }
        }
        return new Topics(settings, sparse);
    }

    private static void set(Properties settings, String key, String value) {
        boolean isSmall = key.equals(TopicConfig.SEGMENT_BYTES_CONFIG) && Integer.parseInt(value) < LEAST_SEGMENT_BYTES;
        String known = isSmall ? LogConfig.INTERNAL_SEGMENT_BYTES_CONFIG : key;
        // What Kafka has no key for has no effect on files.
        if (LogConfig.configNames().contains(known)) {
            settings.setProperty(known, value);
        }
    }

    Properties of(String topic) {
        return settings.getOrDefault(topic, new Properties());
    }

    /** Whether offsets may be missing. */
    boolean isSparse(String topic) {
        return sparse.contains(topic) || of(topic).getProperty(TopicConfig.CLEANUP_POLICY_CONFIG, "").contains("compact");
    }
}
