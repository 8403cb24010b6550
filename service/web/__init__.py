"""The service's HTTP surface: `routes` is its table of contents, one line for each URL.

A handler reads the request, calls one thing of the levels below and builds the answer. Handlers
find the components through the typed keys of `appkeys`, never by importing `app`.
"""
