"""``workbench run``, ``extract`` and ``factors``: stages from cells to a small algorithm, its factors and a report."""
