"""The rows of the catalog, by theme; ``augment.catalog`` puts them together, ``row`` says what one is."""
