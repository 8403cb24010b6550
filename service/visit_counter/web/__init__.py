"""The service's HTTP surface: `routes` is its table of contents, one line for each URL.

A handler reads the request, calls one thing of the packages below and builds the answer. Handlers
find all they work with through the one key of `components`, never by importing `app`. Here lie what
they share, and the handlers for hits, counts, live streams and operators; what is larger has a
package: `lane` `hits` `pictures` `pages` `words` `api`.
"""
