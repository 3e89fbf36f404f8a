"""The needs of one Mac; `order` has the order in which they are met."""
