"""The explorer: a head map to click through, in a notebook (live) or on a page (what was computed before).

What is shown: `data`, made of `measures` (scores and effects), `heads` (pairs, factors, programs) and `maps` (cells). Where:
`widget` in Jupyter, `page` without Python; both run the one ``explorer.js``. Asked while one looks: `live`.
"""
