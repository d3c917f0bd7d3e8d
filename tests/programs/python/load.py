"""What Python programs do: parse, format, sort, match, load modules, work in threads. Waits at "ready" and "done"."""
import json
import re
import sqlite3
import sys
import threading
import zlib


def step(name):
    print(name, flush=True)
    sys.stdin.read(1)


def recurse(levels):
    return sorted([levels], key=lambda value: recurse(value - 1)) if levels else [bytes(4000)]


def work():
    document = json.dumps({str(number): ["text" * 200] * 5 for number in range(50)})
    for number in range(0, 30, 5):
        json.loads(document)
        re.sub(r"t(e)xt", lambda match: match.group(1) * 3, document)
        zlib.decompress(zlib.compress(document.encode()))
        recurse(number)
    base = sqlite3.connect(":memory:")
    base.execute("create table numbers (number, text)")
    base.executemany("insert into numbers values (?, ?)", ((n, "x" * n) for n in range(1000)))
    base.execute("select sum(number), group_concat(text) from numbers group by number % 7").fetchall()
    import decimal
    import xml.etree.ElementTree as tree

    tree.fromstring("<a>" + "<b>text</b>" * 1000 + "</a>")
    str(decimal.Decimal(2) ** 2000)


step("ready")
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
work()
for thread in threads:
    thread.join()
step("done")
