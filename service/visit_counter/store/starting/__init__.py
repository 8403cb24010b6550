"""What keeps a start from reaching its store: which errors no waiting ends, in sentences with their
remedy (`final`), and what speaks at an address whose errors do not tell (`peek`). Not here: the
wait itself, and everything after the store has answered.
"""
