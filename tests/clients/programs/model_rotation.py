# Asks and streams until it is told that it is enough, with keys that were given by the environment once; any failure
# ends it.
import time
import anthropic, openai

ASK = {"model": "rig", "messages": [{"role": "user", "content": "hello"}]}
one = anthropic.Anthropic(max_retries=0)
other = openai.OpenAI(max_retries=0)
end = time.monotonic() + 40
told = []
while time.monotonic() < end and set(told[-2:]) != {"enough"}:
    told = [one.messages.create(max_tokens=9, **ASK).content[0].text]
    with one.messages.stream(max_tokens=9, **ASK) as stream:
        next(iter(stream.text_stream))
        one.models.list()
        stream.get_final_message()
    told.append(other.chat.completions.create(**ASK).choices[0].message.content)
print(*told)
