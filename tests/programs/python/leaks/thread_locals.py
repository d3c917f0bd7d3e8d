# leak: {"function": "answer"}
"""Worker threads with a cache each, in a threading.local, that grows as long as the thread lives. Fixed: it is emptied
after each batch."""
import queue
import threading

import steady

LOCAL = threading.local()
THREADS = 4
BATCHES = queue.Queue()


def answer(number):
    LOCAL.answers[number] = bytearray(3000)  # leaks


def worker():
    LOCAL.answers = {}
    while True:
        batch = BATCHES.get()
        for number in batch:
            answer(number)
        if not steady.leaking():
            LOCAL.answers.clear()
        BATCHES.task_done()


def work(number):
    for thread in range(THREADS):
        first = (number * THREADS + thread) * 20
        BATCHES.put(range(first, first + 20))
    BATCHES.join()


for _ in range(THREADS):
    threading.Thread(target=worker, daemon=True).start()
steady.main(work, 1)
