"""Fields of messages, by descriptors: from a descriptor set, or asked of the agent by reflection.

`descriptor_set` is what is known of types and methods, `selection` finds fields in messages, `source` says where
descriptors come from and follows them, `reflection` asks the agent. protobuf is imported when the first set is read.
"""
