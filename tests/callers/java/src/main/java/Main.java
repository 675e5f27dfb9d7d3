import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Base64;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Makes many calls at once on one channel and prints how they ended: {"OK": 6000, "UNAVAILABLE ...": 2}.
 *
 * <p>Arguments: target, key, calls at once, calls of each caller, streams, the request of GetSession and that of
 * WatchSession in base64. The streams are opened first and stay open until all calls have ended.
 */
public final class Main {
  /** Passes bytes through: no generated code is needed. */
  private static final class Raw implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] bytes) {
      return new ByteArrayInputStream(bytes);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }

  private static final Map<String, Integer> ENDS = new TreeMap<>();

  private static synchronized void add(Status status) {
    String name = status.getCode().name();
    ENDS.merge(status.isOk() ? name : name + " " + status.getDescription(), 1, Integer::sum);
  }

  private static MethodDescriptor<byte[], byte[]> method(MethodType type, String name) {
    return MethodDescriptor.<byte[], byte[]>newBuilder(new Raw(), new Raw())
        .setType(type)
        .setFullMethodName(name)
        .build();
  }

  public static void main(String[] arguments) throws InterruptedException {
    String[] address = arguments[0].split(":");
    int callers = Integer.parseInt(arguments[2]);
    int each = Integer.parseInt(arguments[3]);
    int streams = Integer.parseInt(arguments[4]);
    byte[] get = Base64.getDecoder().decode(arguments[5]);
    byte[] watch = Base64.getDecoder().decode(arguments[6]);
    ManagedChannel channel =
        NettyChannelBuilder.forAddress(address[0], Integer.parseInt(address[1]))
            .usePlaintext()
            .disableRetry()
            .proxyDetector(any -> null)
            .build();
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(4, TimeUnit.MINUTES);
    CountDownLatch opened = new CountDownLatch(streams);
    MethodDescriptor<byte[], byte[]> stream = method(MethodType.SERVER_STREAMING, "sessiond.v1.EventService/WatchSession");
    for (int n = 0; n < streams; n++) {
      begin(channel.newCall(stream, options), arguments[1], watch, true, opened::countDown);
    }
    opened.await();
    CountDownLatch done = new CountDownLatch(callers);
    MethodDescriptor<byte[], byte[]> unary = method(MethodType.UNARY, "sessiond.v1.SessionService/GetSession");
    for (int n = 0; n < callers; n++) {
      repeat(channel, unary, options, arguments[1], get, each, done);
    }
    done.await();
    StringBuilder json = new StringBuilder("{");
    synchronized (Main.class) {
      ENDS.forEach((name, count) ->
          json.append(json.length() > 1 ? "," : "").append('"').append(name.replaceAll("[\"\\\\\\p{Cntrl}]", "?")).append("\":").append(count));
    }
    System.out.println(json.append("}"));
    channel.shutdownNow();
  }

  private static void repeat(
      ManagedChannel channel, MethodDescriptor<byte[], byte[]> method, CallOptions options, String key, byte[] request,
      int left, CountDownLatch done) {
    if (left == 0) {
      done.countDown();
      return;
    }
    begin(channel.newCall(method, options), key, request, false,
        () -> repeat(channel, method, options, key, request, left - 1, done));
  }

  /** `then` runs once: at the end of the call, or with the first frame of a stream, which stays open. */
  private static void begin(ClientCall<byte[], byte[]> call, String key, byte[] request, boolean stream, Runnable then) {
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    call.start(
        new ClientCall.Listener<byte[]>() {
          private boolean begun;

          @Override
          public void onMessage(byte[] message) {
            if (stream) {
              finish(Status.OK);
            }
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            finish(status);
          }

          private void finish(Status status) {
            if (!begun) {
              begun = true;
              add(status);
              then.run();
            }
          }
        },
        headers);
    call.request(2);
    call.sendMessage(request);
    call.halfClose();
  }
}
