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
# # Part labels and attention
#
# Label the parts of a shape, see how sure the model is, and look at what its latents attend to. It needs no
# GPU and takes a few seconds. `pip install "bixt3d[web]" jupyterlab`

# %%
import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

import bixt3d
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.visualize.scene import PALETTE, deviation, different_latents

plotly.io.renderers.default = "plotly_mimetype+notebook"  # figures travel with the notebook: no network

# %% [markdown]
# ## A shape
#
# Any mesh or cloud will do: put the path of your own file here. The shipped segmenter was trained on nineteen
# categories of the Princeton Segmentation Benchmark.

# %%
shapes = write_shapes("data", per_class=5, num_points=512, progress=False)
file = sorted((shapes / "meshes/test/airplane").glob("*.off"))[0]
predictor = bixt3d.Predictor("psb_cpu")
print("categories:", *predictor.classes)

# %% [markdown]
# ## Its parts

# %%
answer = predictor.segment(file, "Airplane")
for part, count in zip(*np.unique(answer.names, return_counts=True), strict=True):
    print(f"{part}: {count} points, {answer.probabilities[answer.names == part].mean():.0%} sure")


# %%
def panels(titles: list[str]) -> go.Figure:
    """Empty panels side by side for clouds whose y points up."""
    figure = make_subplots(cols=len(titles), specs=[[{"type": "scene"}] * len(titles)], subplot_titles=titles)
    hidden = {f"{axis}axis": {"visible": False} for axis in "xyz"}
    camera = {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 1.4, "y": 0.9, "z": 1.4}}
    figure.update_scenes(aspectmode="data", camera=camera, **hidden)
    return figure.update_layout(height=400, margin={"l": 0, "r": 0, "t": 70, "b": 0})


def add(figure: go.Figure, column: int, points: np.ndarray, color, name: str = "", **marker) -> None:
    x, y, z = points[:, :3].T
    figure.add_scatter3d(
        x=x, y=y, z=z, mode="markers", name=name, marker={"size": 2, "color": color, **marker},
        showlegend=bool(name), row=1, col=column,
    )  # fmt: skip


figure = panels(["parts", "how sure it is"])
for color, part in zip(PALETTE, np.unique(answer.names), strict=False):
    add(figure, 1, answer.points[answer.names == part], color, part)
add(figure, 2, answer.points, answer.probabilities, colorscale="Viridis", cmin=0, cmax=1, showscale=True)
figure.update_layout(legend={"x": 0, "y": 0, "itemsizing": "constant"})

# %% [markdown]
# ## What the latents look at
#
# `attention` holds for each layer a map of head, latent and point. The colour says how much more (red) or
# less (blue) than evenly a latent looks at each point, in powers of two up to four times. The
# number says how far from evenly the heads of a layer look, 0 being evenly: one layer of the four hardly
# chooses among points.

# %%
attention = predictor.attention(file, "Airplane")
for layer, one in enumerate(attention.maps, start=1):
    heads, latents, points = one.shape
    print(f"layer {layer}: {heads} heads, {latents} latents, uneven by {deviation(one).std():.3f}")

# %%
(latent,) = different_latents(attention.maps, 1)  # the most concentrated one
maps = attention.maps[0][:, latent]  # (H, N)
figure = panels([f"layer 1, latent {latent}, head {head}" for head in range(len(maps))])
for column, one in enumerate(maps, start=1):
    add(figure, column, attention.points, deviation(one), colorscale="RdBu_r", cmin=0, cmax=1)
figure.update_layout(showlegend=False)

# %% [markdown]
# The same for a whole data set, as one page to turn about in: `bixt3d view RUN --html page.html`.
