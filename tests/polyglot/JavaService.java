// The last of four services, in Java: would call the next one, and signs the answer.
//
//   java JavaService.java PORT [NEXT_URL]
//
// All that it does for tracing is to send on the fields of the request that speak of the trace.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.Executors;

public class JavaService {
    static final String NAME = "java";
    static final List<String> CARRIED =
            List.of("x-b3-", "b3", "traceparent", "tracestate", "l5d-ctx-", "l5d-reqid");

    record Answer(int status, String text) {}

    /** Made only where there is a next hop: loading it takes longer than all the rest. */
    static final class Client {
        // HTTP/1.1, so that no upgrade to HTTP/2 is asked for.
        static final HttpClient HTTP =
                HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    }

    static boolean isCarried(String field) {
        return CARRIED.stream().anyMatch(
                one -> field.equals(one) || one.endsWith("-") && field.startsWith(one));
    }

    static Answer call(String url, HttpExchange exchange) {
        var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(10));
        exchange.getRequestHeaders().forEach((field, values) -> {
            if (isCarried(field.toLowerCase())) values.forEach(it -> request.header(field, it));
        });
        try {
            var answer = Client.HTTP.send(request.build(), BodyHandlers.ofString());
            return answer.statusCode() == 200
                    ? new Answer(200, NAME + " > " + answer.body())
                    : new Answer(502, NAME + ": " + answer.statusCode() + ": " + answer.body());
        } catch (IOException | InterruptedException error) {
            return new Answer(502, NAME + ": " + error);
        }
    }

    public static void main(String[] arguments) throws IOException {
        var port = Integer.parseInt(arguments[0]);
        var next = arguments.length > 1 ? arguments[1] : "";
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> {
            var path = exchange.getRequestURI().toString();
            var answer = next.isEmpty() ? new Answer(200, NAME) : call(next + path, exchange);
            var body = answer.text().getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "text/plain");
            exchange.sendResponseHeaders(answer.status(), body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        System.out.println("listening " + server.getAddress().getPort());
    }
}
