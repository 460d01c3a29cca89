"""tmp"""
from __future__ import annotations


def plot_fronts(fronts, path, title, reference_point=None, axis_labels=None):
    import matplotlib; matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    f,a=plt.subplots()
    for fr in fronts: a.plot(fr.values[:,0],fr.values[:,1],marker="o",label=fr.label)
    a.legend(); a.set_title(title); f.savefig(path); plt.close(f)
