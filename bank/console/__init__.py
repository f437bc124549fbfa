"""Pages for people under `/console`: what the bank is doing for who runs it, and their own accounts for customers.

Made by the server out of the services that the API uses too; htmx asks again for what moves.
"""
