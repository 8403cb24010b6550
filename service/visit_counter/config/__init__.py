"""What the operator decides, and what the machine says of itself.

Here: the settings, how their values are read, defaults that depend on the host, the admin token.
Not here: a site's settings, which admins change while the service runs (`model/site_settings.py`).
"""
