"""``workbench dictionary``: sparse dictionaries of any hooks, trained, judged beside what is simpler, named, and shown on pages."""
