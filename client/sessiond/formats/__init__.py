"""Converts conversations between messages and the forms of others, there and back without loss.

One module for each form: `chat` (chat completions), `responses` (items of the Responses API), `anthropic` (messages
with content blocks), `vercel` (messages of the AI SDK's user interfaces) and `langchain`. Each has the same functions:

    from_items(items) -> list[Message]    one message for each item
    to_items(messages) -> list[dict]      the same items, or those of another form in this one

`to_items(from_items(items)) == items` for whatever the form allows, unknown fields included; docs/messages.md says what
becomes of what. None of them needs the package of the form's owner.
"""
