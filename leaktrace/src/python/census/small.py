# Keeps small objects that the collector does not know, and waits for its input to end.
import gc, os, sys

N = 50000
kept = [
    [i * 1.5 for i in range(N)],
    [complex(i, 1) for i in range(N)],
    ["s%d" % i for i in range(N)],
    [b"%d" % i for i in range(N)],
    [10**6 + i for i in range(N)],
]
gc.collect()
print(sum(sys.getsizeof(each) for each in kept[2]), flush=True)
os.read(0, 1)
