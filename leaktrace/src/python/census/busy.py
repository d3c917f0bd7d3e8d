# Keeps twenty thousand objects, and makes and drops others in four threads until its input ends.
import gc, os, random, threading


class Kept:
    def __init__(self, i):
        self.x = [i, self]


class Passing:
    pass


def churn(seed):
    numbers, old = random.Random(seed), []
    while True:
        for i in range(2000):
            passing = Passing()
            passing.me = {"c": passing, "l": [passing]}
            old.append(passing)
            if len(old) > 1000:
                at = numbers.randrange(len(old))
                gone, old[at] = old[at], old[-1]
                old.pop()
                if i % 3:
                    gone.me.clear()


keep = [Kept(i) for i in range(20000)]
gc.collect()
for seed in range(4):
    threading.Thread(target=churn, args=(seed,), daemon=True).start()
print("ready", flush=True)
os.read(0, 1)
os._exit(0)
