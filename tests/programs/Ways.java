// Changes files in the ways that Java programs have, one way a run: `java Ways WAY`, in the working directory, with
// `old.dat` of 10,000 bytes there. Exit 0: done. Exit 2: there is no such way. Otherwise it failed.
import java.io.BufferedWriter;
import java.io.FileOutputStream;
import java.io.FileWriter;
import java.io.IOException;
import java.io.PrintStream;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.AsynchronousFileChannel;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;

public class Ways {
    static final byte[] TEXT = "The quick brown fox jumps over the lazy dog\n".getBytes();

    public static void main(String[] words) throws Exception {
        switch (words[0]) {
            case "FileOutputStream" -> {
                try (var out = new FileOutputStream("f.dat")) {
                    for (int i = 0; i < 100; i++) out.write(TEXT);
                    out.getFD().sync();
                }
                try (var out = new FileOutputStream("old.dat", true)) {
                    out.write(TEXT, 3, 10);
                    out.write('x');
                }
            }
            case "FileWriter" -> {
                try (var out = new BufferedWriter(new FileWriter("f.dat"))) {
                    for (int i = 0; i < 2000; i++) out.write("line " + i + "\n");
                }
                try (var out = new PrintStream("g.dat")) {
                    out.printf("number %d%n", 7);
                }
            }
            case "RandomAccessFile" -> {
                try (var file = new RandomAccessFile("old.dat", "rw")) {
                    file.seek(5000);
                    file.write(TEXT);
                    file.setLength(7000);
                    file.seek(8000);
                    file.writeUTF("behind the end");
                    file.writeLong(42);
                }
                try (var file = new RandomAccessFile("f.dat", "rwd")) {
                    file.writeInt(7);
                }
            }
            case "FileChannel" -> {
                try (var channel = FileChannel.open(
                        Path.of("f.dat"), StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
                    for (int i = 0; i < 20; i++) channel.write(ByteBuffer.wrap(TEXT));
                    channel.write(ByteBuffer.wrap(TEXT), 5000);
                    channel.write(new ByteBuffer[] {ByteBuffer.wrap(TEXT), ByteBuffer.wrap(TEXT)});
                    channel.truncate(4000);
                    channel.force(true);
                }
                try (var channel = FileChannel.open(Path.of("old.dat"), StandardOpenOption.APPEND)) {
                    channel.write(ByteBuffer.wrap(TEXT));
                }
            }
            case "transferTo" -> {
                try (var from = FileChannel.open(Path.of("old.dat"));
                        var to = FileChannel.open(
                                Path.of("f.dat"), StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
                    check(from.transferTo(0, 9000, to) == 9000);
                    check(to.transferFrom(from, 9000, 500) == 500);
                }
            }
            case "MappedByteBuffer" -> {
                try (var channel = FileChannel.open(
                        Path.of("old.dat"), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
                    MappedByteBuffer memory = channel.map(FileChannel.MapMode.READ_WRITE, 0, 12000);
                    memory.put(4000, TEXT);
                    memory.force();
                    memory.put(11000, TEXT);
                }
            }
            case "AsynchronousFileChannel" -> {
                try (var channel = AsynchronousFileChannel.open(
                        Path.of("f.dat"), StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
                    channel.write(ByteBuffer.wrap(TEXT), 100).get();
                    channel.write(ByteBuffer.wrap(TEXT), 0).get();
                }
            }
            case "Files.write" -> {
                Files.writeString(Path.of("f.dat"), "all of it\n".repeat(1000));
                Files.write(Path.of("old.dat"), TEXT, StandardOpenOption.APPEND);
                Files.newByteChannel(Path.of("g.dat"), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE).close();
            }
            case "Files.move" -> {
                Path fresh = Files.createTempFile(Path.of("."), "new", ".tmp");
                Files.write(fresh, TEXT);
                Files.move(fresh, Path.of("old.dat"), StandardCopyOption.ATOMIC_MOVE);
                Files.writeString(Path.of("gone.dat"), "gone soon");
                Files.delete(Path.of("gone.dat"));
            }
            case "Files.copy" -> {
                Files.copy(Path.of("old.dat"), Path.of("f.dat"));
                try (var in = Files.newInputStream(Path.of("old.dat"))) {
                    Files.copy(in, Path.of("g.dat"));
                }
            }
            case "threads" -> {
                try (var out = new FileOutputStream("sorted.dat", true)) {
                    var threads = new Thread[8];
                    for (int t = 0; t < threads.length; t++) {
                        final int who = t;
                        threads[t] = new Thread(() -> {
                            try {
                                for (int i = 0; i < 100; i++)
                                    out.write(String.format("thread %5d, record %9d;%n", who, i).getBytes());
                            } catch (IOException error) {
                                throw new java.io.UncheckedIOException(error);
                            }
                        });
                        threads[t].start();
                    }
                    for (var thread : threads) thread.join();
                }
            }
            default -> System.exit(2);
        }
    }

    private static void check(boolean good) {
        if (!good) throw new IllegalStateException("fewer bytes than asked for");
    }
}
