import static scala.jdk.javaapi.CollectionConverters.asJava;
import static scala.jdk.javaapi.CollectionConverters.asScala;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

import kafka.log.LogManager;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.checkpoint.CleanShutdownFileHandler;
import org.apache.kafka.storage.internals.checkpoint.OffsetCheckpointFile;
import org.apache.kafka.storage.internals.log.CleanerConfig;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.UnifiedLog;
import org.apache.kafka.storage.log.metrics.BrokerTopicStats;

/** A log directory, opened by the class that opens a broker's, and closed as a broker does in an orderly shutdown. */
final class Opened implements AutoCloseable {
    /** Nothing is to be deleted, flushed or expired while we look. */
    private static final long NEVER_MS = Long.MAX_VALUE / 2;

    private final Path dir;
    private final LogDirFailureChannel failures = new LogDirFailureChannel(1);
    private final KafkaScheduler scheduler = new KafkaScheduler(1);
    private final LogManager manager;

    private Opened(Path dir, Topics topics) throws Exception {
        this.dir = dir;
        scheduler.startup();
        manager = new LogManager(
            asScala(List.of(dir.toFile())),
            asScala(List.of()),
            (ConfigResource resource) -> topics.of(resource.name()),
            new LogConfig(Map.of()),
            new CleanerConfig(false),
            1, // thread for recovery
            NEVER_MS, // between flushes
            NEVER_MS, // between checkpoints of recovery points
            NEVER_MS, // between checkpoints of starts
            NEVER_MS, // between retentions
            900_000, // at most for a transaction
            new ProducerStateManagerConfig(Integer.MAX_VALUE, false),
            Integer.MAX_VALUE, // between expirations of producers
            scheduler,
            new BrokerTopicStats(),
            failures,
            Time.SYSTEM,
            false, // remote storage
            NEVER_MS, // before the first of all that
            null); // no cleaner
        manager.startup(asScala(topics.settings().keySet()), log -> false);
        for (UnifiedLog log : logs()) {
            // There is no other replica.
            log.updateHighWatermark(log.logEndOffset());
        }
    }

    /** Reads everything. If nothing is wrong, opening and closing leaves the files that it reads as they are. */
    static void reading(Path dir, Topics topics, boolean isClean, List<String> complaints, Counts counts)
            throws Exception {
        CleanShutdownFileHandler mark = new CleanShutdownFileHandler(dir.toString());
        if (isClean) {
            mark.write(-1);
        } else if (mark.exists()) {
            mark.delete();
        }
        Snapshot before = Snapshot.of(dir);
        try (Opened opened = new Opened(dir, topics)) {
            opened.describe(counts);
        }
        complaints.addAll(before.changedTo(Snapshot.of(dir)));
        counts.add("files compared", before.count());
    }

    /** Appends to each partition but those of Kafka's own topics. */
    static void appending(Path dir, Topics topics, Counts counts) throws Exception {
        try (Opened opened = new Opened(dir, topics)) {
            for (UnifiedLog log : opened.logs()) {
                if (!log.topicPartition().topic().startsWith("__")) {
                    counts.add("batches appended", new Leader(log).append());
                }
            }
            opened.describe(counts);
        }
    }

    private List<UnifiedLog> logs() {
        return asJava(manager.allLogs().toSeq()).stream()
            .sorted(Comparator.comparing((UnifiedLog log) -> log.dir().getName()))
            .collect(Collectors.toList());
    }

    private void describe(Counts counts) throws IOException {
        List<UnifiedLog> logs = logs();
        counts.add("partitions", logs.size());
        counts.add("segments", logs.stream().mapToLong(UnifiedLog::numberOfSegments).sum());
        counts.add("records", Records.write(logs, dir.resolveSibling(dir.getFileName() + ".jsonl")));
    }

    @Override
    public void close() throws Exception {
        Map<TopicPartition, Long> ends = new TreeMap<>(Comparator.comparing(TopicPartition::toString));
        logs().forEach(log -> ends.put(log.topicPartition(), log.highWatermark()));
        manager.shutdown(-1);
        // The one checkpoint that is not the manager's.
        new OffsetCheckpointFile(dir.resolve("replication-offset-checkpoint").toFile(), failures).write(ends);
        scheduler.shutdown();
        if (failures.hasOfflineLogDir(dir.toString())) {
            throw new IOException("the directory is marked failed");
        }
    }
}
