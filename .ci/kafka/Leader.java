import java.io.IOException;
import java.nio.charset.StandardCharsets;

import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.server.common.RequestLocal;
import org.apache.kafka.server.common.TransactionVersion;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.UnifiedLog;
import org.apache.kafka.storage.internals.log.VerificationGuard;

/** The leader of a partition, newly elected. */
final class Leader {
    private static final long PRODUCER = 9_001;
    /** Enough to roll small segments. */
    private static final int BATCHES = 24;

    private final UnifiedLog log;
    private final int epoch;
    private long appended;
    private short producerEpoch;

    Leader(UnifiedLog log) {
        this.log = log;
        epoch = log.latestEpoch().orElse(-1) + 1;
        log.assignEpochStartOffset(epoch, log.logEndOffset());
    }

    /** Appends plain and compressed batches, then a transaction that is committed and one that is aborted. */
    long append() throws IOException {
        CompressionType[] codecs = CompressionType.values();
        for (int number = 0; number < BATCHES; number++) {
            SimpleRecord[] records = new SimpleRecord[1 + number % 5];
            for (int at = 0; at < records.length; at++) {
                records[at] = record(number, at);
            }
            append(MemoryRecords.withRecords(Compression.of(codecs[number % codecs.length]).build(), records));
        }
        transaction(ControlRecordType.COMMIT);
        transaction(ControlRecordType.ABORT);
        log.updateHighWatermark(log.logEndOffset());
        return appended;
    }

    private SimpleRecord record(int number, int at) {
        byte[] key = at == 0 ? null : text("key " + at);
        byte[] value = at == 3 ? null : text("appended by a leader of epoch " + epoch + ", ".repeat(number * 4) + number);
        Header[] headers = {new RecordHeader("from", text("kafka")), new RecordHeader("none", (byte[]) null)};
        return new SimpleRecord(1_750_000_000_000L + number, key, value, at == 2 ? headers : new Header[0]);
    }

    /** As since version 2 of transactions: each ends in an epoch of its own, and the next one's sequences begin anew. */
    private void transaction(ControlRecordType outcome) throws IOException {
        for (int at = 0; at < 3; at++) {
            SimpleRecord record = record(at, 1);
            append(MemoryRecords.withTransactionalRecords(Compression.NONE, PRODUCER, producerEpoch, at, record));
        }
        producerEpoch++;
        EndTransactionMarker marker = new EndTransactionMarker(outcome, 0);
        log.appendAsLeader(
            MemoryRecords.withEndTransactionMarker(PRODUCER, producerEpoch, marker), epoch, AppendOrigin.COORDINATOR,
            RequestLocal.noCaching(), VerificationGuard.SENTINEL, TransactionVersion.TV_2.featureLevel());
        appended++;
    }

    private void append(MemoryRecords records) throws IOException {
        log.appendAsLeader(records, epoch);
        appended++;
    }

    private static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
