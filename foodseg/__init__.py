"""foodseg: which ingredient is where on an image of food."""

__version__ = "0.1.0"
