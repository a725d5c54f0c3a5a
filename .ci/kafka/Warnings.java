import java.util.List;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/** Takes what Kafka logs as a warning or worse for a complaint, until it is closed. */
final class Warnings extends Handler implements AutoCloseable {
    private static final Logger ROOT = Logger.getLogger("");

    private final List<String> complaints;

    Warnings(List<String> complaints) {
        this.complaints = complaints;
        for (Handler handler : ROOT.getHandlers()) {
            ROOT.removeHandler(handler);
        }
        ROOT.addHandler(this);
    }

    @Override
    public void publish(LogRecord record) {
        boolean isAboutTheBroker = record.getMessage().contains("log.cleaner.enable");
        if (record.getLevel().intValue() < Level.WARNING.intValue() || isAboutTheBroker) {
            return;
        }
        String cause = record.getThrown() == null ? "" : ": " + record.getThrown();
        synchronized (complaints) {
            complaints.add(record.getMessage() + cause);
        }
    }

    @Override
    public void flush() {}

    @Override
    public void close() {
        ROOT.removeHandler(this);
    }
}
