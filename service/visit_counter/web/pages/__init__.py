"""Pages and scripts for people who embed the counter.

Here: the snippet and its files, the page to choose a counter from, the checker, the demo. The
scripts themselves lie in `web/assets/`; their words in `web/words/`.
"""
