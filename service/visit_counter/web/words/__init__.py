"""Words that people read: languages and their texts, and the privacy notice of a site."""
