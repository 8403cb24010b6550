"""What draws: a module for each picture, which knows neither requests nor the store.

`panel` knows what is to be shown; `markup`, `colors` and `widths` are what all draw with.
"""
