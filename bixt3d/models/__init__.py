"""Networks: tokenizers, trunks, grouping, heads, and models by name."""

from bixt3d.models import official
from bixt3d.models.bixt import BiXT, Perceiver
from bixt3d.models.factory import create_model, list_models, register_model

__all__ = ["BiXT", "Perceiver", "create_model", "list_models", "official", "register_model"]
