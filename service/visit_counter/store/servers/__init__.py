"""The servers behind the store's URL: which of them take writes (`primaries` asks, `shards` knows)
and our connections to them. Not here: what is sent over these, and which errors are final.
"""
