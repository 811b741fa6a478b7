# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Classify your shapes
#
# Name shapes with shipped weights, then train a classifier on classes of your own. It needs no GPU and takes
# about a minute. `pip install "bixt3d[web]" jupyterlab`

# %%
import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

import bixt3d
from bixt3d.datasets.synthetic.shapes import write_shapes

plotly.io.renderers.default = "plotly_mimetype+notebook"  # figures travel with the notebook: no network

# %% [markdown]
# ## Some meshes
#
# Put your own here: `files` may be any meshes or clouds, such as `sorted(Path("my_meshes").rglob("*.stl"))`.
# These are synthetic.

# %%
shapes = write_shapes("data", per_class=20, num_points=512, progress=False)
files = [next((shapes / "meshes/test" / name).glob("*.off")) for name in ("airplane", "bottle", "table")]
print(*files, sep="\n")

# %% [markdown]
# ## Ask the shipped classifier
#
# It knows the 40 classes of ModelNet40. `up` is the axis of your files that points up.

# %%
predictor = bixt3d.Predictor("modelnet40_cpu", up="y")
answers = predictor(files)
for file, answer in zip(files, answers, strict=True):
    best = np.argsort(-answer.probabilities)[:3]
    print(file.name, *(f"{predictor.classes[i]} {answer.probabilities[i]:.0%}" for i in best), sep="   ")


# %% [markdown]
# What is unlike its training gets wrong names, as some of the synthetic chairs and mugs do.
# Look at the probability, and train on shapes of your own where that is low.
#
# What it looked at: the points that were chosen, centred and scaled. Turn them with the mouse.


# %%
def show(clouds: dict[str, np.ndarray]) -> go.Figure:
    """Clouds (N, 3), y up, side by side."""
    figure = make_subplots(
        cols=len(clouds), specs=[[{"type": "scene"}] * len(clouds)], subplot_titles=list(clouds)
    )
    for column, points in enumerate(clouds.values(), start=1):
        x, y, z = points[:, :3].T
        marker = {"size": 2, "color": y, "colorscale": "Viridis"}
        figure.add_scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, row=1, col=column)
    hidden = {f"{axis}axis": {"visible": False} for axis in "xyz"}
    camera = {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 1.4, "y": 0.9, "z": 1.4}}
    figure.update_scenes(aspectmode="data", camera=camera, **hidden)
    return figure.update_layout(showlegend=False, height=350, margin={"l": 0, "r": 0, "t": 70, "b": 0})


show({f"{file.stem}: {answer.label}": answer.points for file, answer in zip(files, answers, strict=True)})

# %% [markdown]
# ## Classes of your own
#
# The ten synthetic classes stand for yours. With meshes in folders, `my_meshes/<class>/<file>`, say
# `data.name=folder data.root=my_meshes` and leave the rest.

# %%
settings = ["data.name=shapes", "data.root=data", "data.num_points=256", "run.dir=runs/notebook"]
settings += ["model.name=bixt_nano_cls_hierarchy", "train.epochs=8", "train.batch_size=16"]
result = bixt3d.train(bixt3d.load_config("own_data", settings))
print(f"test accuracy {result.last['oa']:.0%}")

# %% [markdown]
# Which classes does it take for each other? Rows are the truth.

# %%
own = bixt3d.Predictor(result.model)
test = bixt3d.open_dataset("shapes", "data", "test", num_points=256)
confusion = np.zeros((len(test.classes),) * 2, int)
for points, label in zip(test.points, test.label.tolist(), strict=True):
    confusion[label, own(points).index] += 1
heat = go.Heatmap(z=confusion, x=test.classes, y=test.classes, colorscale="Blues", texttemplate="%{z}")
axes = {"yaxis_autorange": "reversed", "xaxis_title": "predicted", "yaxis_title": "true"}
go.Figure(heat).update_layout(height=450, margin={"t": 40}, **axes)

# %% [markdown]
# The run's folder holds the weights, which describe themselves: `bixt3d.Predictor("runs/notebook/last")`,
# or on the command line `bixt3d predict FILE --checkpoint runs/notebook`.
