"""Leads malloc through as many ways of the interpreter and its modules as a few files of the library give. argv: how many."""
import ast, bz2, collections, decimal, difflib, glob, io, json, lzma, os, pickle, re, sqlite3, sys, tokenize, zlib
import xml.etree.ElementTree as tree

kept = []


def nested(depth):
    return [depth] if depth == 0 else [nested(depth - 1), bytes(600 + depth)]


def work(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    parsed = ast.parse(text)
    ast.dump(parsed)
    kept.append(compile(parsed, path, "exec"))
    collections.deque(tokenize.generate_tokens(io.StringIO(text).readline), 0)
    lines = text.splitlines()
    pickle.loads(pickle.dumps(json.loads(json.dumps({"lines": lines}))))
    for packer in (zlib, bz2, lzma):
        packer.decompress(packer.compress(text[:20000].encode()))
    re.findall(r"(\w+)\s*=\s*(\w+)", text)
    list(difflib.unified_diff(lines[:60], lines[10:80]))
    tree.fromstring("<a>" + "<b>x</b>" * 200 + "</a>")
    sorted(text.split(), key=lambda word: (len(word), word))
    base = sqlite3.connect(":memory:")
    base.execute("create table t(a, b)")
    base.executemany("insert into t values(?, ?)", [(number, str(number) * 9) for number in range(300)])
    base.execute("select a, count(*) from t group by b order by 2").fetchall()
    nested(len(text) % 90)
    str(decimal.Decimal(3) ** 200)
    eval("lambda: " + "+".join(map(str, range(50))))


for path in sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))[: int(sys.argv[1])]:
    work(path)
