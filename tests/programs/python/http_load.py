"""A web server and its clients in one process: requests, JSON, a database, templates. Waits at "ready" and "done"."""
import http.client
import http.server
import json
import sqlite3
import string
import sys
import threading


def step(name):
    print(name, flush=True)
    sys.stdin.read(1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        base = sqlite3.connect(":memory:")
        base.execute("create table rows (number, text)")
        base.executemany("insert into rows values (?, ?)", [(n, "x" * n) for n in range(asked["rows"])])
        rows = base.execute("select number, text from rows order by text desc").fetchall()
        base.close()
        page = string.Template("<p>$number: $text</p>")
        body = "".join(page.substitute(number=number, text=text) for number, text in rows).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what):
        pass


def ask(port, times):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for number in range(times):
        connection.request("POST", "/", json.dumps({"rows": 100 + number, "why": "z" * 2000}))
        connection.getresponse().read()
    connection.close()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
step("ready")
clients = [threading.Thread(target=ask, args=(server.server_port, 60)) for _ in range(3)]
for client in clients:
    client.start()
for client in clients:
    client.join()
step("done")
server.shutdown()
