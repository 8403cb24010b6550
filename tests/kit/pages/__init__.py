"""Pages, pictures and documents: a browser, and readers of what is drawn and written."""
