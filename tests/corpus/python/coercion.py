"""A cache of coercion plans, keyed by type. usage: coercion.py types|fixed

types: a schema is made anew for each request, and with it a type that the cache has not seen. fixed: there are forty types.
"""

from corpus import Run, Site

SIZE = 4000
site = Site("site_plan")
plans = {}


def site_plan():
    return bytearray(SIZE)


def plan_for(kind):
    plan = plans.get(kind)
    if plan is None:
        plan = plans[kind] = site_plan()
        site.took(SIZE + 1)
    return plan


run = Run()
fresh = run.variant == "types"
if fresh:
    site.rate = 25 * (SIZE + 1) * run.speed
fixed = [type(f"Model{n}", (), {"__slots__": ()}) for n in range(40)]
run.begin(site)
seen = 0
for _ in run.ticks():
    for _ in range(run.due(25)):
        seen += 1
        if fresh:
            plan_for(type("Model", (), {"__slots__": ()}))
        else:
            # New ones are met ever more rarely, the last after 160.
            plan_for(fixed[min(39, seen // 4)] if seen % 4 == 0 else fixed[min(39, seen // 4) // 2])
            if len(plans) == 40:
                run.once("full")
run.end()
