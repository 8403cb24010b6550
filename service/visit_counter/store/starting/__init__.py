"""What keeps a start from reaching its store: which errors no waiting ends, in sentences with their
remedy (`final`), the rule that a refusal asks for (`denied`) and all that are needed
(`permissions`), files of certificates (`certificates`), and what speaks at an address whose errors
do not tell (`peek`). Not here: the wait itself, and everything after the store has answered.
"""
