#!/usr/bin/env python3
"""User-space instructions of a shard per request, by callgrind: what tracing adds, without noise.
Counted is what a connection's task does in its steps: the loop around it depends on the moment.

    benches/instructions.py target/release/ringlane

For each setting of tracing the proxy runs under valgrind twice, with few and with more requests of
one client; the difference is theirs. Origins, collector and client are here. Takes some minutes;
needs valgrind, a C compiler and Python, and no debug build.

Valgrind 3.19 takes io_uring_enter for a call that never waits, and so every other thread waits for
it. A library put before libc submits first, waits with ppoll, which valgrind knows, and then reaps:
the same instructions for each setting, so differences are not touched.
"""

import glob
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

FEW, MORE = 300, 1_300
START_SECS = 120
# Name, and the exporter that is configured; {collector} is its port.
ZIPKIN = ("- {{kind: zipkin, endpoint: 'http://127.0.0.1:{collector}/api/v2/spans', "
          "sample_rate: %s}}")
SETTINGS = [("no exporter of spans", "")] + [
    (f"sample_rate: {rate}", ZIPKIN % rate) for rate in ["0.0", "0.001", "1.0"]]
REQUEST = b"GET /articles HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + b"x" * 128

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <time.h>

struct wait { uint64_t mask; uint32_t size, pad; uint64_t timeout; };

long syscall(long number, ...) {
    static long (*next)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (!next) next = dlsym(RTLD_NEXT, "syscall");
    int is_enter = number == 426, waits = is_enter && a[2] > 0 && (a[3] & 1);
    if (!waits) return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    long submitted = next(number, a[0], a[1], 0L, a[3], a[4], a[5]);
    if (submitted < 0) return submitted;
    struct timespec *timeout = 0;
    if ((a[3] & 8) && a[4]) timeout = (struct timespec *)((struct wait *)a[4])->timeout;
    struct pollfd ring = { (int)a[0], POLLIN, 0 };
    int ready = ppoll(&ring, 1, timeout, 0);
    next(number, a[0], 0L, 0L, a[3], a[4], a[5]);
    if (ready == 0) { errno = ETIME; return -1; }
    return submitted;
}
"""


class Serve(socketserver.BaseRequestHandler):
    """An origin, and a collector that takes whatever it is sent."""

    def handle(self):
        data = b""
        while True:
            more = self.request.recv(1 << 16)
            if not more:
                return
            data += more
            while b"\r\n\r\n" in data:
                head, rest = data.split(b"\r\n\r\n", 1)
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = int(length.group(1)) if length else 0
                if len(rest) < body:
                    break
                data = rest[body:]
                self.request.sendall(ANSWER)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


def serve():
    server = Server(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def ask(port, count):
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(count):
            client.sendall(REQUEST)
            got = b""
            while not got.endswith(b"x" * 128):
                got += client.recv(1 << 16)


def run(binary, folder, shim, config, count):
    """Instructions of the connection's steps."""
    path, out = os.path.join(folder, "ringlane.yaml"), os.path.join(folder, "out")
    with open(path, "w") as file:
        file.write(config)
    for old in glob.glob(out + "*"):
        os.remove(old)
    command = ["valgrind", "--tool=callgrind", "--separate-threads=yes",
               f"--callgrind-out-file={out}", binary, path]
    proxy = subprocess.Popen(command, env=dict(os.environ, LD_PRELOAD=shim),
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(START_SECS, proxy.kill)
    watchdog.start()
    try:
        ready = next((line for line in proxy.stderr if "is ready" in line), None)
        if ready is None:
            sys.exit(f"{binary} did not start under valgrind")
        ask(int(re.search(r"listeners=\[[^:]*:(\d+)", ready).group(1)), count)
        # The last spans leave with the end.
        proxy.send_signal(signal.SIGTERM)
        proxy.stderr.read()
        proxy.wait()
    finally:
        watchdog.cancel()
        proxy.kill()
    for part in glob.glob(out + "-*"):
        annotate = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", part]
        lines = subprocess.run(annotate, capture_output=True, text=True, check=True).stdout
        steps = re.search(r"^ *([\d,]+) .*connection\.rs:ringlane::shard::connection::Connection::step ",
                          lines, re.M)
        if steps:
            return int(steps.group(1).replace(",", ""))
    sys.exit("no thread was a shard")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    origin, collector = serve(), serve()
    base = None
    with tempfile.TemporaryDirectory() as folder:
        source, shim = os.path.join(folder, "shim.c"), os.path.join(folder, "shim.so")
        with open(source, "w") as file:
            file.write(SHIM)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        for name, exporter in SETTINGS:
            config = "\n".join([
                "runtime: {cores: \"0\", drain_ms: 100}",
                "admin: off",
                "telemetry:",
                "  tracing: {max_spans_per_sec: 0}",
                "  exporters:",
                "  - {kind: prometheus}",
                "  " + exporter.format(collector=collector),
                "routers: [{servers: [{port: 0}], routes: [{service: web}]}]",
                f"services: {{web: {{endpoints: [\"127.0.0.1:{origin}\"]}}}}",
            ])
            few, more = (run(sys.argv[1], folder, shim, config, count) for count in (FEW, MORE))
            each = (more - few) / (MORE - FEW)
            base = base or each
            print(f"{name:24} {each:8.0f} instructions per request, {each / base:.3f}", flush=True)


main()
