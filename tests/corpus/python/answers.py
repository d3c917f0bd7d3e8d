"""A dict of all answers that were ever given, by question. usage: answers.py"""

from corpus import Run, Site

SIZE = 2500
site = Site("site_answer")
answers = {}


def site_answer(question):
    return bytes(bytearray(SIZE))


run = Run()
site.rate = 80 * (SIZE + 33) * run.speed
run.begin(site)
question = 0
for _ in run.ticks():
    for n in range(run.due(80)):
        question += 1
        answers[question] = site_answer(question)
        site.took(SIZE + 33)
        # And some are asked again.
        answers.get(question // 2)
run.end()
