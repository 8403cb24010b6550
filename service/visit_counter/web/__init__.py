"""The service's HTTP surface: `routes` is its table of contents, one line for each URL.

A handler reads the request, calls one thing of the packages below and builds the answer. Handlers
find the components through the typed keys of `components`, never by importing `app`. Here lie what
all of them share, and the handlers for counts, live streams and operators; what is larger has a
package: `lane` `hits` `pictures` `pages` `words` `api`.
"""
