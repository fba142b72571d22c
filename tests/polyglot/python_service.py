"""The first of four services, in Python: calls the next one and signs the answer.

    python3 python_service.py PORT [NEXT_URL]

Nothing here knows of tracing. A service must only send on what it was told of a trace, which is a
few fields of the request; the spans are made by the proxy in front of each service.
"""

import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "python"
CARRIED = ("x-b3-", "b3", "traceparent", "tracestate", "l5d-ctx-", "l5d-reqid")
NEXT = sys.argv[2] if len(sys.argv) > 2 else None
# The next hop is reached directly, whatever proxy the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def of_the_trace(fields):
    return {name: value for name, value in fields.items() if is_carried(name.lower())}


def is_carried(name):
    return any(name == one or one.endswith("-") and name.startswith(one) for one in CARRIED)


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, text = 200, NAME
        if NEXT:
            request = urllib.request.Request(NEXT + self.path, headers=of_the_trace(self.headers))
            try:
                with OPENER.open(request, timeout=10) as answer:
                    text = f"{NAME} > {answer.read().decode()}"
            except urllib.error.HTTPError as error:
                status, text = 502, f"{NAME}: {error.code}: {error.read().decode()}"
            except OSError as error:
                status, text = 502, f"{NAME}: {error}"
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Requests are told by their spans."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service)
    print("listening", server.server_address[1], flush=True)
    server.serve_forever()
