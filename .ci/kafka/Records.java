import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.message.FetchResponseData.AbortedTransaction;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.server.storage.log.FetchIsolation;
import org.apache.kafka.storage.internals.log.FetchDataInfo;
import org.apache.kafka.storage.internals.log.UnifiedLog;

/** All records of a log, as a consumer gets them. */
final class Records {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int READ_BYTES = 1 << 20;

    private Records() {}

    /** Writes those of all partitions to a file, one a line. Returns how many. */
    static long write(List<UnifiedLog> logs, Path path) throws IOException {
        long count = 0;
        try (BufferedWriter lines = Files.newBufferedWriter(path)) {
            for (UnifiedLog log : logs) {
                count += write(log, lines);
            }
        }
        return count;
    }

    private static long write(UnifiedLog log, BufferedWriter lines) throws IOException {
        Set<Long> committed = committed(log);
        long count = 0;
        long at = log.logStartOffset();
        while (at < log.logEndOffset()) {
            long from = at;
            for (RecordBatch batch : read(log, at, FetchIsolation.LOG_END).records.batches()) {
                batch.ensureValid();
                at = batch.nextOffset();
                if (batch.isControlBatch()) {
                    continue;
                }
                for (Record record : batch) {
                    if (record.offset() >= from) {
                        lines.write(line(log, batch, record, committed.contains(record.offset())));
                        lines.newLine();
                        count++;
                    }
                }
            }
            checkMoved(log, from, at);
        }
        return count;
    }

    private static FetchDataInfo read(UnifiedLog log, long at, FetchIsolation isolation) throws IOException {
        return log.read(at, READ_BYTES, isolation, true);
    }

    private static void checkMoved(UnifiedLog log, long from, long at) throws IOException {
        if (at <= from) {
            throw new IOException(log.topicPartition() + " has nothing to read at " + from);
        }
    }

    /** The offsets that a consumer gets that reads committed records only: it leaves out what a fetch calls aborted. */
    private static Set<Long> committed(UnifiedLog log) throws IOException {
        Set<Long> offsets = new HashSet<>();
        long at = log.logStartOffset();
        while (at < log.lastStableOffset()) {
            long from = at;
            FetchDataInfo read = read(log, at, FetchIsolation.TXN_COMMITTED);
            PriorityQueue<AbortedTransaction> coming =
                new PriorityQueue<>(Comparator.comparingLong(AbortedTransaction::firstOffset));
            read.abortedTransactions.ifPresent(coming::addAll);
            Set<Long> aborted = new HashSet<>();
            for (RecordBatch batch : read.records.batches()) {
                at = batch.nextOffset();
                while (!coming.isEmpty() && coming.peek().firstOffset() <= batch.lastOffset()) {
                    aborted.add(coming.poll().producerId());
                }
                if (isAbortMarker(batch)) {
                    aborted.remove(batch.producerId());
                } else if (!batch.isControlBatch() && !(batch.isTransactional() && aborted.contains(batch.producerId()))) {
                    batch.forEach(record -> offsets.add(record.offset()));
                }
            }
            checkMoved(log, from, at);
        }
        return offsets;
    }

    private static boolean isAbortMarker(RecordBatch batch) {
        return batch.isControlBatch()
            && batch.iterator().hasNext()
            && ControlRecordType.parse(batch.iterator().next().key()) == ControlRecordType.ABORT;
    }

    private static String line(UnifiedLog log, RecordBatch batch, Record record, boolean isCommitted)
            throws JsonProcessingException {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("topic", log.topicPartition().topic());
        line.put("partition", log.topicPartition().partition());
        line.put("offset", record.offset());
        line.put("timestamp", record.timestamp());
        line.put("timestampType", batch.timestampType().name);
        line.put("key", base64(record.key()));
        line.put("value", base64(record.value()));
        List<String[]> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(new String[] {header.key(), base64(header.value())});
        }
        line.put("headers", headers);
        line.put("leaderEpoch", batch.partitionLeaderEpoch());
        line.put("keySize", record.keySize());
        line.put("valueSize", record.valueSize());
        line.put("committed", isCommitted);
        return JSON.writeValueAsString(line);
    }

    private static String base64(ByteBuffer bytes) {
        return bytes == null ? null : base64(Utils.toArray(bytes));
    }

    private static String base64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
