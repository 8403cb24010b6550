"""The admin API under /api/v1: one module for each kind of resource.

Every handler needs the admin token. What only reads numbers for pages belongs to `web/site.py`.
"""
