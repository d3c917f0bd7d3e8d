# leak: {"function": "RendererAgg.__init__", "file": "backend_agg.py", "through": "chart", "type": "Figure", "objects": 1}
"""pyplot keeps every figure until it is closed: with it the pixels that it was drawn on. Fixed: it is closed."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot

import steady

matplotlib.rcParams["figure.max_open_warning"] = 0


def chart(number):
    figure = pyplot.figure(figsize=(6, 4), dpi=100)
    figure.add_artist(matplotlib.lines.Line2D([0, 1], [0, number % 7]))
    figure.canvas.draw()  # through
    if not steady.leaking():
        pyplot.close(figure)


steady.main(chart, 1)
