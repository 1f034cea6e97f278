"""foodseg: which ingredient is where on a picture of food."""

__version__ = "0.1.0"
