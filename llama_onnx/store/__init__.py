"""Models by name: downloads them, keeps them ready to run in a cache, lists and removes them."""
