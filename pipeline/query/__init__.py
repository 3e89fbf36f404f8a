"""A read-only view of the topics, for `drydock query` and `drydock replay --kafka`: no producer."""
